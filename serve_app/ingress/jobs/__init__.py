"""Job operations for routes: submit, look up, cancel, delete, follow. Calls the Jobs deployment and reads its store."""
