"""What turns a model into boundaries: the contract (``base``), the adapters, and the named models (``presets``)."""
