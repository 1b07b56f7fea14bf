(component
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
