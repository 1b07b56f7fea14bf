const settings = await Promise.resolve({});
export default () => settings;
