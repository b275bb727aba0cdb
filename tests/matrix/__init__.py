"""Every multimodal architecture of transformers, tiny and with media, through the contract of ``check``."""
