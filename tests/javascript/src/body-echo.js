// For benchmarks: answers a message with its body.
export default (message, context) => context.body;
