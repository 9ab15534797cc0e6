"""What routes do with jobs: submit, look up, end, watch. Calls the Jobs deployment and reads its store."""
