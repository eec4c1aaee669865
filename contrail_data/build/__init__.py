"""Build stores: samples from a source go, shard by shard, into a sealed store.

`recipe` is everything that defines a store, in one file; `inputs` are the kinds of raw data that it can name, a schema
for each. `build` plans, resumes and seals; `scheduler` runs the tasks on threads, processes or a cluster; `shard` is
one task, from raw bytes to stored bytes, and closes the gaps that bad records leave. `repair` rebuilds damaged files of
a store from its raw data. `from_python` is what Python code calls.
"""
