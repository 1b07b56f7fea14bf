/** A mistake in the handler, or in what it is built with: told without a stack. */
export class SourceError extends Error {}
