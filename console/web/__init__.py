"""The console in the browser, and its HTTP interface."""
