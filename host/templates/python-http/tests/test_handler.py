import unittest

from handler import answer


class Handler(unittest.TestCase):
    def test_it_greets_the_key(self):
        self.assertEqual(answer("GET", "/", "ada"), ("200 OK", "Hello, ada!\n"))
        self.assertEqual(answer("GET", "/x", "ada")[0], "404 Not Found")
        self.assertEqual(answer("POST", "/", "ada")[0], "405 Method Not Allowed")


if __name__ == "__main__":
    unittest.main()
