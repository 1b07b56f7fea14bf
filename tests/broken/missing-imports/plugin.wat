(component
  (import "example:other/thing@1.0.0" (instance))
  (import "wasi:keyvalue/store@0.2.0" (instance))
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.0" (instance $handler)))
