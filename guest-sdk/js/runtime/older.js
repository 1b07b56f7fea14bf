// What the engine of components has, and that of older versions of Node.js has not: for tests.

import "core-js/actual/error/is-error";
import "core-js/actual/typed-array/from-base64";
import "core-js/actual/typed-array/from-hex";
import "core-js/actual/typed-array/to-base64";
import "core-js/actual/typed-array/to-hex";
