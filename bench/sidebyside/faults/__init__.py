"""Endpoints that go wrong under load: what clients notice, and how soon the bad one is out.

`endpoints` runs them, `happenings` makes them go wrong, `wire` sees who is still sent requests,
`arrivals` is the load, `proxies` who stands before them. The case is `cases/faults.py`;
`tests/test_faults.py` holds Evener to it.
"""
