(component
  (import "meshage:mesh/logging@0.2.0" (instance))
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
