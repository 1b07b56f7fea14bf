(component
  (core module $m
    (memory 1025)
    (func (export "handle")))
  (core instance $i (instantiate $m))
  (func $handle (canon lift (core func $i "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
