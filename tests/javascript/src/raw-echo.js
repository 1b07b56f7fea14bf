// For benchmarks: answers a message with its body, without the SDK.
export const messageHandler = {
  handle(message) {
    return { status: 200, headers: [["content-type", "application/octet-stream"]], body: message.body };
  },
};
