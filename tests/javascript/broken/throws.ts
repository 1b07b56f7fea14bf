const settings: any = undefined;

export default () => settings.name;
export const name = settings.name;
