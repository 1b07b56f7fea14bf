// Randomness of the host. The engine's own seed is that of the build: the same in every instance.

import { getRandomBytes } from "wasi:random/random";

import { needsCall, running } from "./phase.js";

const UUID = /(.{8})(.{4})(.{4})(.{4})(.{12})/;

export const crypto = {
  getRandomValues(array) {
    needsCall("crypto");
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    bytes.set(getRandomBytes(array.byteLength));
    return array;
  },
  randomUUID() {
    needsCall("crypto");
    const bytes = getRandomBytes(16);
    // Version 4, and the variant of RFC 9562.
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    return bytes.toHex().replace(UUID, "$1-$2-$3-$4-$5");
  },
};

const ofBuild = Math.random;
let state;

/** xoshiro128++ (Blackman and Vigna), seeded by the host. */
function next() {
  const sum = (state[0] + state[3]) | 0;
  const result = (((sum << 7) | (sum >>> 25)) + state[0]) >>> 0;
  const shifted = state[1] << 9;
  state[2] ^= state[0];
  state[3] ^= state[1];
  state[1] ^= state[2];
  state[0] ^= state[3];
  state[2] ^= shifted;
  state[3] = (state[3] << 11) | (state[3] >>> 21);
  return result;
}

/** Math.random: 53 bits. */
export function random() {
  if (!running) {
    return ofBuild();
  }
  state ??= new Uint32Array(getRandomBytes(16).buffer);
  return (next() * 2 ** 21 + (next() >>> 11)) / 2 ** 53;
}
