(module
  (@custom "component-type:handler" "damaged")
  (func (export "handle")))
