//! A guest for tests: a handler that imports an interface that the host does not provide.
#![allow(unsafe_code, reason = "of the generated bindings")]

wit_bindgen::generate!({
    inline: "
        package example:other@1.0.0;

        interface thing {
            poke: func();
        }

        world alien {
            import thing;
        }
    ",
});

#[meshage_sdk::handler]
fn alien() {
    example::other::thing::poke();
}
