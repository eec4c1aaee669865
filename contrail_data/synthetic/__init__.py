"""Made-up data: the embedded default data of the demo, the tests and the benchmarks.

`noise` makes random fields, `lines` contrails, their lookalikes and annotators, `metadata` places and times. `scene`
puts them together and computes brightness temperatures. `records` writes scenes as records in the OpenContrails layout,
with `tfrecords` also as TFRecords like those in which the data set is published, `abi` as files like NOAA's. Everything
is a pure function of a seed. A score reached on these data says nothing about real contrails.
"""
