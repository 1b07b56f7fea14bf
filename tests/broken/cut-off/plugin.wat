(component
  (core module $m
    (memory 1)
    (data (i32.const 0) "what the file is cut off in, which is long enough to be cut off in the middle of")
    (func (export "handle"))))
