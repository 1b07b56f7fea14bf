(component
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance))
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
