export default (message) => {;
