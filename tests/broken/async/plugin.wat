(component
  (core module $m
    (func (export "handle"))
    (func (export "callback") (param i32 i32 i32) (result i32) unreachable))
  (core instance $i (instantiate $m))
  (func $handle async (canon lift (core func $i "handle") async))
  (instance $handler (export "handle" (func $handle)))
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
