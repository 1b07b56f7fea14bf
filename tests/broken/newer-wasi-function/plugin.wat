(component
  (import "wasi:clocks/monotonic-clock@0.2.99" (instance (export "stop" (func))))
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
