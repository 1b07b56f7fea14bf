//! The `#[meshage_sdk::handler]` attribute and `json!`. Use them through `meshage-sdk`, which
//! documents them.

mod json;

use proc_macro::TokenStream;
use proc_macro2::{Ident, Span, TokenStream as Tokens};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, Result, ReturnType, Type};

/// A handler with more arguments needs a type of its own for its input.
const ARGUMENTS_MAX: usize = 8;

/// Makes a function the handler of its component.
///
/// The function is left as it is, so that tests can call it. Its arguments, up to eight, must
/// implement `FromMessage`, and its result `IntoReply`. A component has one handler.
#[proc_macro_attribute]
pub fn handler(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let attribute = Tokens::from(attribute);
    let item = Tokens::from(item);
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(_) => {
            let error = Error::new_spanned(&item, "`#[meshage_sdk::handler]` goes on a function")
                .into_compile_error();
            return quote!(#error #item).into();
        }
    };
    let glue = check_attribute(&attribute)
        .and_then(|()| expand(&function))
        .unwrap_or_else(Error::into_compile_error);
    quote!(#function #glue).into()
}

/// Makes a `Value` from JSON with expressions in place of values.
///
/// Like `serde_json::json!`, but a `Value` that is returned by an expression (a call, not a
/// variable) is moved into place instead of copied.
///
/// ```ignore
/// json!({ "echoed": message.merged()?, "at": [line, null], (name): { "nested": true } })
/// ```
#[proc_macro]
pub fn json(tokens: TokenStream) -> TokenStream {
    match syn::parse::<json::Json>(tokens) {
        Ok(json) => json.expand().into(),
        Err(error) => error.into_compile_error().into(),
    }
}

fn check_attribute(attribute: &Tokens) -> Result<()> {
    if attribute.is_empty() {
        return Ok(());
    }
    Err(Error::new_spanned(
        attribute,
        "`#[meshage_sdk::handler]` takes no options; a plugin's settings are in its manifest",
    ))
}

fn expand(function: &ItemFn) -> Result<Tokens> {
    let types = argument_types(function)?;
    let name = &function.sig.ident;
    // Hygienic names, which cannot clash with those in the function or of other items.
    let message = Ident::new("message", Span::mixed_site());
    let names: Vec<_> = (0..types.len())
        .map(|i| Ident::new(&format!("argument_{i}"), Span::mixed_site()))
        .collect();
    let extractions = types.iter().zip(&names).enumerate().map(|(i, (ty, name))| {
        // Only the last one may consume the message; the others borrow it.
        let extract = if i + 1 == types.len() {
            quote_spanned!(ty.span()=> <#ty as ::meshage_sdk::FromMessage>::from_owned(#message)?)
        } else {
            quote_spanned!(ty.span()=> <#ty as ::meshage_sdk::FromMessage>::from_message(&#message)?)
        };
        quote!(let #name = #extract;)
    });
    let result_span = match &function.sig.output {
        ReturnType::Default => name.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let into_reply = quote_spanned!(result_span=> ::meshage_sdk::IntoReply::into_reply(result));

    Ok(quote! {
        #[doc(hidden)]
        #[allow(dead_code, unused_variables)]
        fn __meshage_handler_of_this_component(
            #message: ::meshage_sdk::Message,
        ) -> ::core::result::Result<::meshage_sdk::Reply, ::meshage_sdk::Failure> {
            #(#extractions)*
            let result = #name(#(#names),*);
            #into_reply
        }

        #[cfg(target_family = "wasm")]
        #[allow(unreachable_pub, clippy::all)]
        const _: () = {
            use ::meshage_sdk::__private::bindings::exports::meshage::mesh::message_handler as wit;

            struct Component;

            impl wit::Guest for Component {
                fn handle(message: wit::Message) -> ::core::result::Result<wit::Reply, wit::Failure> {
                    ::meshage_sdk::__private::run(__meshage_handler_of_this_component, message)
                }
            }

            ::meshage_sdk::__private::export!(Component with_types_in ::meshage_sdk::__private::bindings);
        };
    })
}

/// The types of the arguments, if the signature is one that a handler can have.
fn argument_types(function: &ItemFn) -> Result<Vec<&Type>> {
    let signature = &function.sig;
    if let Some(asyncness) = signature.asyncness {
        return Err(Error::new_spanned(
            asyncness,
            "a handler is not `async`: it runs to its end, and the host runs many at once",
        ));
    }
    if let Some(unsafety) = signature.unsafety {
        return Err(Error::new_spanned(
            unsafety,
            "a handler is not `unsafe`: the host keeps no promise but its types",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &signature.generics,
            "a handler has no type parameters or lifetimes: the host calls it with one type of message",
        ));
    }
    if signature.inputs.len() > ARGUMENTS_MAX {
        return Err(Error::new_spanned(
            &signature.inputs,
            format!(
                "a handler takes {ARGUMENTS_MAX} arguments at most; take `Message` and read it instead"
            ),
        ));
    }
    signature.inputs.iter().map(argument_type).collect()
}

fn argument_type(argument: &FnArg) -> Result<&Type> {
    match argument {
        FnArg::Receiver(receiver) => Err(Error::new_spanned(
            receiver,
            "a handler is a free function, not a method: instances of a component hold no `self`",
        )),
        FnArg::Typed(typed) => match &*typed.ty {
            Type::Reference(reference) => Err(Error::new_spanned(
                reference,
                "a handler owns its arguments: write the type without `&`",
            )),
            Type::ImplTrait(ty) => Err(Error::new_spanned(
                ty,
                "a handler's arguments have types, not `impl Trait`",
            )),
            ty => Ok(ty),
        },
    }
}
