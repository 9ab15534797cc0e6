"""Documents that outlive their request."""
