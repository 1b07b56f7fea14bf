(component
  (import "wasi:io/poll@0.2.0-rc-2023-11-10" (instance))
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
