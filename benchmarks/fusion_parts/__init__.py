"""The controlled experiment on fusion: its tables and its page."""
