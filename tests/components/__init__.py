"""Parts of the service by themselves, with the processes, servers and sockets that they use."""
