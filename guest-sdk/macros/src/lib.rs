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
    let arguments = arguments(function)?;
    let name = &function.sig.ident;
    // Hygienic names, which cannot clash with those in the function or of other items.
    let message = Ident::new("message", Span::mixed_site());
    let entity = Ident::new("entity", Span::mixed_site());
    let names: Vec<_> = (0..arguments.len())
        .map(|i| Ident::new(&format!("argument_{i}"), Span::mixed_site()))
        .collect();
    let named = || arguments.iter().zip(&names);
    // What is borrowed is loaded first: the last of the others may consume the message.
    let loads = named().filter_map(|(argument, name)| {
        let ty = argument.borrowed()?;
        let load = quote_spanned!(ty.span()=> <#ty as ::meshage_sdk::Stateful>::load(&#entity)?);
        Some(quote!(let mut #name = #load;))
    });
    let last_owned = arguments
        .iter()
        .rposition(|argument| argument.borrowed().is_none());
    let extractions = named().enumerate().filter_map(|(i, (argument, name))| {
        let Argument::Owned(ty) = argument else { return None };
        let extract = if Some(i) == last_owned {
            quote_spanned!(ty.span()=> <#ty as ::meshage_sdk::FromMessage>::from_owned(#message)?)
        } else {
            quote_spanned!(ty.span()=> <#ty as ::meshage_sdk::FromMessage>::from_message(&#message)?)
        };
        Some(quote!(let #name = #extract;))
    });
    let passed = named().map(|(argument, name)| match argument {
        Argument::Owned(_) => quote!(#name),
        Argument::Shared(_) => quote!(&#name),
        Argument::Mutable(_) => quote!(&mut #name),
    });
    let saves = named().filter_map(|(argument, name)| match argument {
        Argument::Mutable(ty) => Some(
            quote_spanned!(ty.span()=> <#ty as ::meshage_sdk::Stateful>::save(#name, &#entity)?;),
        ),
        Argument::Owned(_) | Argument::Shared(_) => None,
    });
    let is_stateful = arguments
        .iter()
        .any(|argument| argument.borrowed().is_some());
    let entity_of_message = is_stateful.then(|| {
        quote!(let #entity = <::meshage_sdk::Entity as ::meshage_sdk::FromMessage>::from_message(&#message)?;)
    });
    let result_span = match &function.sig.output {
        ReturnType::Default => name.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let into_reply = quote_spanned!(result_span=> ::meshage_sdk::IntoReply::into_reply(result));

    Ok(quote! {
        #[doc(hidden)]
        #[allow(dead_code, unused_variables, unused_mut)]
        fn __meshage_handler_of_this_component(
            #message: ::meshage_sdk::Message,
        ) -> ::core::result::Result<::meshage_sdk::Reply, ::meshage_sdk::Failure> {
            #entity_of_message
            #(#loads)*
            #(#extractions)*
            let result = #name(#(#passed),*);
            let reply = #into_reply?;
            #(#saves)*
            ::core::result::Result::Ok(reply)
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

/// An argument of a handler, by its type.
enum Argument<'a> {
    Owned(&'a Type),
    /// `&T`.
    Shared(&'a Type),
    /// `&mut T`.
    Mutable(&'a Type),
}

impl<'a> Argument<'a> {
    /// The type behind the reference, if it is one.
    fn borrowed(&self) -> Option<&'a Type> {
        match self {
            Self::Owned(_) => None,
            Self::Shared(ty) | Self::Mutable(ty) => Some(ty),
        }
    }
}

/// The arguments, if the signature is one that a handler can have.
fn arguments(function: &ItemFn) -> Result<Vec<Argument<'_>>> {
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
    let arguments = signature.inputs.iter().map(argument);
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    let mut mutable = arguments.iter().filter_map(|argument| match argument {
        Argument::Mutable(ty) => Some(ty),
        Argument::Owned(_) | Argument::Shared(_) => None,
    });
    if let (Some(_), Some(second)) = (mutable.next(), mutable.next()) {
        return Err(Error::new_spanned(
            second,
            "an entity has one state: the second would overwrite the first; take one, or `Entity`",
        ));
    }
    Ok(arguments)
}

fn argument(argument: &FnArg) -> Result<Argument<'_>> {
    let typed = match argument {
        FnArg::Receiver(receiver) => {
            return Err(Error::new_spanned(
                receiver,
                "a handler is a free function, not a method: instances of a component hold no `self`",
            ));
        }
        FnArg::Typed(typed) => typed,
    };
    match &*typed.ty {
        Type::Reference(reference) if reference.mutability.is_some() => {
            Ok(Argument::Mutable(&reference.elem))
        }
        Type::Reference(reference) => Ok(Argument::Shared(&reference.elem)),
        Type::ImplTrait(ty) => Err(Error::new_spanned(
            ty,
            "a handler's arguments have types, not `impl Trait`",
        )),
        Type::Path(path)
            if path
                .path
                .segments
                .last()
                .is_some_and(|last| last.ident == "State") =>
        {
            Err(Error::new_spanned(
                path,
                "the state is taken by reference, as it is saved when the handler has returned: write `&mut State<…>`, \
                 or `&State<…>` to read only",
            ))
        }
        ty => Ok(Argument::Owned(ty)),
    }
}
