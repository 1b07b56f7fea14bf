//! A guest for tests: a handler that imports what no host has.
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
