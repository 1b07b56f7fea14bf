(component
  (instance $handler)
  (export "meshage:mesh/message-handler@0.0.9" (instance $handler)))
