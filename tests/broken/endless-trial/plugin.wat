(component
  (core module $m
    (func $prepare (loop $again (br $again)))
    (start $prepare)
    (func (export "handle")))
  (core instance $i (instantiate $m))
  (func $handle (canon lift (core func $i "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
