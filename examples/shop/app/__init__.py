"""A small web shop, written as a FastAPI application that knows nothing about its server.

`app.main` puts the parts together; each router owns one subject.
"""
