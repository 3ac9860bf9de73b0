mod dex_age;
