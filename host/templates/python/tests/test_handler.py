import unittest

from meshage.testing import open_stream


class Handler(unittest.TestCase):
    def test_it_greets_and_counts(self):
        stream = open_stream("handler.py")
        for times in (1, 2):
            answer = stream.post("ada", {"name": "Ada"})
            self.assertEqual(answer.json(), {"greeting": "Hello, Ada!", "times": times})
        self.assertEqual(stream.post("ada", {"name": ""}).status, 400)
        self.assertEqual(stream.get("ada").json(), {"times": 2})


if __name__ == "__main__":
    unittest.main()
