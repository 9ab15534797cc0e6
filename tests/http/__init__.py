"""HTTP without Ray: the real application and all behind it, in the process of the tests.

What is about Serve itself (proxies, replicas that die, deployments, clients that leave) is in tests/service and tests/faults.
"""
