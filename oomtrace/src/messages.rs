//! Messages of protobuf, written down without a generator.

/// Messages are tables; a line for each field says more than a struct over many.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field:meta])* $key:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, prost::Message)]
            pub struct $name {
                $($(#[$field])* pub $key: $type,)*
            }
        )*
    };
}
pub(crate) use messages;
