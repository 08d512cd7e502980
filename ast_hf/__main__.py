import sys

from ast_hf.cli import main

sys.exit(main())
