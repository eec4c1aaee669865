"""Where files lie: folders and object storage as one thing, and files that appear whole or not at all.

`files` writes local files atomically and turns errors of the disk into messages. `place` offers the few operations that
a store needs, on a folder or on a URL; `object_storage` sends the requests for the latter, and `lock` keeps a second
process out. `documents` reads YAML and tables that people write, `cache` names the user's cache folder. `tfrecord`
finds and verifies the records of TFRecord files, whose messages `example` decodes through the wire format in
`protobuf`.
"""
