"""python -m ondevice"""

from ondevice.cli import main

main()
