(component
  (core module (memory 1) (memory 1) (memory 1))
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
