"""The main job, run as its users run it: real senders, a real PACS, all processes."""
