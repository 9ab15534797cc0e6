"""Documents behind URLs, and whoever is told of the end of jobs: addresses of strangers."""
