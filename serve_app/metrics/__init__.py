"""What the service counts, for Prometheus. `catalogue` has every metric; rooms above count there. Uses no other room."""
