"""The table, one file per way media enter."""
