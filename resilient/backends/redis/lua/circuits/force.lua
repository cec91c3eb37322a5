-- ARGV ..., state, open_for
move(ARGV[4], 'forced', tonumber(ARGV[5]))
store()
return view()
