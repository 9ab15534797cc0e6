"""The numbers that the service exports to Prometheus. `catalogue` has every metric; rooms above count there. Uses no other room."""
