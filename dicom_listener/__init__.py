"""The Storage and Verification SCP: keep, record, answer."""
