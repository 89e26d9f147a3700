"""Real peers, started by the tests on free ports: brokers, databases, a PACS and its senders."""
