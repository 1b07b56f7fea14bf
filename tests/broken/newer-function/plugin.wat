;; a later 0.1.x of the contract that this host does not have yet
(component
  (import "meshage:mesh/logging@0.1.9" (instance (export "flush" (func))))
  (instance $handler)
  (export "meshage:mesh/message-handler@0.1.9" (instance $handler)))
