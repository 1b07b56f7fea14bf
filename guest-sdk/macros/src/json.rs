//! The syntax of `json!`, and its expansion.

use proc_macro2::{Ident, TokenStream as Tokens};
use quote::quote;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Expr, Result, Token, braced, bracketed, token};

/// One value, as it is written.
pub(crate) enum Json {
    Null,
    Array(Punctuated<Json, Token![,]>),
    Object(Punctuated<Field, Token![,]>),
    Expression(Expr),
}

pub(crate) struct Field {
    name: Expr,
    value: Json,
}

impl Parse for Json {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let content;
        if input.peek(token::Brace) {
            braced!(content in input);
            return Ok(Self::Object(Punctuated::parse_terminated(&content)?));
        }
        if input.peek(token::Bracket) {
            bracketed!(content in input);
            return Ok(Self::Array(Punctuated::parse_terminated(&content)?));
        }
        let ahead = input.fork();
        if ahead
            .call(Ident::parse_any)
            .is_ok_and(|word| word == "null")
            && (ahead.is_empty() || ahead.peek(Token![,]))
        {
            input.call(Ident::parse_any)?;
            return Ok(Self::Null);
        }
        Ok(Self::Expression(input.parse()?))
    }
}

impl Parse for Field {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = input.parse()?;
        input.parse::<Token![:]>()?;
        Ok(Self {
            name,
            value: input.parse()?,
        })
    }
}

impl Json {
    /// The expression that makes the value.
    pub(crate) fn expand(&self) -> Tokens {
        match self {
            Self::Null => quote!(::meshage_sdk::Value::Null),
            Self::Array(items) => {
                let items = items.iter().map(Self::expand);
                quote!(::meshage_sdk::Value::Array(::std::vec![#(#items),*]))
            }
            Self::Object(fields) => {
                let count = fields.len();
                let fields = fields.iter().map(|Field { name, value }| {
                    let value = value.expand();
                    quote!(object.insert((#name).into(), #value);)
                });
                quote!(::meshage_sdk::Value::Object({
                    let mut object = ::meshage_sdk::__json::Map::with_capacity(#count);
                    #(#fields)*
                    object
                }))
            }
            Self::Expression(expression) if is_place(expression) => {
                quote!(::meshage_sdk::__json::copied(&#expression))
            }
            Self::Expression(expression) => quote!({
                use ::meshage_sdk::__json::{Copied as _, Moved as _};
                ::meshage_sdk::__json::Temporary(#expression).json()
            }),
        }
    }
}

/// Whether the expression names a place, such as a variable or a field, that must not be moved.
fn is_place(expression: &Expr) -> bool {
    match expression {
        Expr::Path(_) | Expr::Field(_) | Expr::Index(_) | Expr::Reference(_) => true,
        Expr::Unary(unary) => matches!(unary.op, syn::UnOp::Deref(_)),
        Expr::Paren(inner) => is_place(&inner.expr),
        Expr::Group(inner) => is_place(&inner.expr),
        _ => false,
    }
}
