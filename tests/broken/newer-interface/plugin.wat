(component
  (instance $handler)
  (export "meshage:mesh/message-handler@0.2.0" (instance $handler)))
